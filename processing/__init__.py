"""The jobs, runnable in a SageMaker container and on a laptop."""
