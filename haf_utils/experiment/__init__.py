"""From a configuration to run folders, and from run folders to tables."""
