"""The resident scorer as a service: champions from MLflow, a web interface, and ``vad serve``."""
