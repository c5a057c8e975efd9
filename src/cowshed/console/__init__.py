"""Consoles: the serial log, the interactive serial console, VNC and SPICE endpoints."""
