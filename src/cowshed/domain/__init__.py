"""Domain XML: values in, XML out, and back. Pure: nothing here touches the host.

One file per device, one declaration per XML value (see ``element``). ``assemble`` joins them into
a domain, ``naming`` and ``qos`` choose what the image and the flavor leave open, ``read`` answers
questions about the XML that libvirt returns.
"""
