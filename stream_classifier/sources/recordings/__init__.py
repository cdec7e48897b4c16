"""Recordings on disk, one file a format; ``sources/recording.py`` plays them."""
