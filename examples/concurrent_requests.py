"""Send many small requests at once, with asyncio."""

import asyncio
import os

from diagonalflip import AsyncClient

URL = os.environ.get("DIAGONALFLIP_URL", "http://127.0.0.1:8080")


async def main() -> None:
    async with AsyncClient(URL) as client:
        answers = await asyncio.gather(*(client.predict([image]) for image in range(16)))
    print(f"{len(answers)} answers, the last one {answers[-1][0]}")


asyncio.run(main())
