"""Layers under which code written for other limiters runs on this engine, with changed imports."""
