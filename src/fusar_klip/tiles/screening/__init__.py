"""Which regions and tiles are worth keeping: semantic density, water, landform, texture, quality."""
