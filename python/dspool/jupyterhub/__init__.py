"""JupyterHub on a dspool: notebook servers as apps of people's sessions."""

from .spawner import PoolSpawner

__all__ = ["PoolSpawner"]
