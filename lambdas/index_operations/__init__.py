"""The Lambda function by which operators list, publish and drop indices, because the network of the domain has no way in."""
