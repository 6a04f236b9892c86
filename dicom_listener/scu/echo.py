"""Check by C-ECHO that an Application Entity is listening; for health checks."""

from pynetdicom import AE

from dicom_listener.dicom.uids import VERIFICATION
from dicom_listener.receive.upper_layer.negotiation import CHECK_AE_TITLE


def answers_echo(host: str, port: int, *, called_ae_title: str, timeout_seconds: float) -> bool:
    """Return whether the peer answers C-ECHO with success, or rejects the association: a rejection is an answer, too.

    The address must accept TCP connections: otherwise pynetdicom logs an error and leaves its socket open.
    """
    ae = AE(CHECK_AE_TITLE)
    ae.add_requested_context(VERIFICATION)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = timeout_seconds
    association = ae.associate(host, port, ae_title=called_ae_title)
    if not association.is_established:
        return bool(association.is_rejected)
    status = association.send_c_echo()
    association.release()
    return "Status" in status and status.Status == 0
