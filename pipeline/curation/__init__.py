"""What people add: names, corrections, promoted classes."""
