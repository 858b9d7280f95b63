"""A deployment of the synthesised app on this machine: the real CDK command line against an emulated AWS."""
