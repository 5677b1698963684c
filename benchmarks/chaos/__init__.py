"""Processes are killed and the database fails while images arrive: nothing may be lost, nothing counted twice."""
