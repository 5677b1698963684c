"""PatchCore: a memory of normal patches, and the distance of each new patch to its nearest one."""
