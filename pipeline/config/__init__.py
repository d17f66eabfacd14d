"""Parameters: params.yaml as frozen models, and presets."""
