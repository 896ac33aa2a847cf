"""Result files: masks, surfaces, DICOM, all or none."""
