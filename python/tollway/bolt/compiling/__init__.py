"""From routes as people write them to what the server follows without looking at them again."""
