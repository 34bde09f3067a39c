"""Places and SAR platforms: data that several stages read."""
