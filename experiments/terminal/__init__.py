"""What commands share: flags, start-up, mistakes, files, pictures and progress."""
