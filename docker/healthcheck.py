"""Exits 0 while the service is ready: every worker has proven itself, and it does not stop."""

import http.client
import os
import sys

port = int(os.environ.get("OPERATIONS_PORT") or 8083)
try:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
    connection.request("GET", "/v2/health/ready")
    answer = connection.getresponse()
    print(answer.read().decode())
except OSError as error:
    sys.exit(f"no answer on port {port}: {error}")
sys.exit(answer.status != http.client.OK)
