"""Processes are killed and the disk fills up while images land: nothing may be lost, nothing may be scored twice."""
