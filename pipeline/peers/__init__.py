"""The methods that AnomalyNCD is compared with, one module a method: arrays in, arrays out."""
