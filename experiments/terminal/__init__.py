"""Shared by all commands: flags, start-up, user errors, files, pictures and progress."""
