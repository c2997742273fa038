"""ndtool.firmware_templates: package data only."""

if __name__ != "ndtool.firmware_templates":
    raise ImportError("import ndtool.firmware_templates, not 'firmware_templates'")
