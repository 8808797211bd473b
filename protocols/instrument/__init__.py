"""The driver interface every electronics is controlled through."""
