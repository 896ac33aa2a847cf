"""Reading a case: CT or mask from image files and DICOM folders, in HU, with its geometry."""
