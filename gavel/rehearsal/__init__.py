"""A rehearsal on this machine: the real CDK command line deploys the synthesised app to an emulated AWS."""
