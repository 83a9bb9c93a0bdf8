"""Whether W&B's server can be reached: waiting for it would take every cell a minute."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request

_TIMEOUT_S = 10.0


def unreachable(url: str) -> str | None:
    """Why nobody answers at `url`, in words; None where somebody does, whatever the answer."""
    try:
        urllib.request.urlopen(url, timeout=_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        return None
    except urllib.error.URLError as error:
        # W&B trusts other certificates than Python does.
        if isinstance(error.reason, ssl.SSLError):
            return None
        reason = getattr(error.reason, "strerror", None) or str(error.reason)
        return reason.lower()
    except (OSError, ValueError) as error:
        return str(error).lower()
    return None
