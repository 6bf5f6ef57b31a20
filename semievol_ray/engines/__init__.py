"""What owns a device or a native library. Nothing heavy is imported before it is used, and ray never is."""
