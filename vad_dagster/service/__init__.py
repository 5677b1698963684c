"""The inference service as a process: champions from MLflow, a web interface, and ``vad serve``."""
