"""What a device sends of what it learned, and how: blocks, their bytes, and when they leave. Off unless asked for."""
