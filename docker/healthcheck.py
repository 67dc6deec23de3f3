"""Exit with 0 while the service is ready: its workers are proven, and it is not stopping."""

import http.client
import sys

from supervisor.settings import Settings

url = Settings.from_environment().admin_url
try:
    # http.client, because it never asks a proxy.
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=4)
    connection.request("GET", "/v2/health/ready")
    answer = connection.getresponse()
    print(answer.read().decode())
except OSError as error:
    sys.exit(f"no answer from {url}: {error}")
sys.exit(answer.status != http.client.OK)
