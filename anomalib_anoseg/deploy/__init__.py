"""From a trained model to a file on another computer: export, quantization, metadata and runtimes."""
