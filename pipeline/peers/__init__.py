"""The methods that AnomalyNCD is compared with: arrays in, arrays out, one module a method."""
