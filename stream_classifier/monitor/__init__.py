"""The monitor page: served by the pipeline, on a thread of its own, to browsers on this machine."""
