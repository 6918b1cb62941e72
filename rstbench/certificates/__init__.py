"""Certificates: frozen dataclasses that are called like functions, and prove where attacks only fail.

`certificate(module, x, y, threat) -> Certified`. A new certificate is a module beside these and a line in
`plugins.BUILTIN`.
"""

from .spec import Certificate, CertificateSpec, Certified

__all__ = ["Certificate", "CertificateSpec", "Certified"]
