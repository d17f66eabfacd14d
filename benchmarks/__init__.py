"""What is measured with the pipeline; neither `pipeline` nor `stages` imports it."""
