"""From images to classes of regions."""
