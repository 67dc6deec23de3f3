"""Exit with 0 while the service on this host is ready, as a container's health check does."""

from __future__ import annotations

import http.client
import sys

from diagonalflip.server.settings import Settings

TIMEOUT_S = 4.0


def main() -> int:
    """Ask for readiness and print the answer; return the exit status."""
    url = Settings.from_environment().admin_url
    # http.client never uses a proxy.
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/v2/health/ready")
        response = connection.getresponse()
        print(response.read().decode())
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer from {url}: {error}", file=sys.stderr)
        return 1
    finally:
        connection.close()
    return int(response.status != http.client.OK)


if __name__ == "__main__":
    sys.exit(main())
