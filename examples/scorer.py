"""A scorer for `contrapose evaluate --suite scores --judges http`: how bright, and how contrasted, each image is.

    python examples/scorer.py 8001

It answers GET with its version and metrics, and POST {"images": [{"image": base64 of a PNG, "prompt": text}, ...]}
with {"scores": [{"brightness": 0.5, "contrast": 0.2}, ...]}. Put your own network in place of `score`.
"""

import base64
import io
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image, ImageStat

ABOUT = {"version": "brightness-1", "higher_is_better": {"brightness": True, "contrast": True}}


def score(image, prompt):
    """Mean and deviation of the grey values, 0 to 1; a scorer of your own may look at the prompt too."""
    grey = ImageStat.Stat(image.convert("L"))
    return {"brightness": grey.mean[0] / 255, "contrast": grey.stddev[0] / 255}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(ABOUT)

    def do_POST(self):
        entries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["images"]
        images = [Image.open(io.BytesIO(base64.b64decode(entry["image"]))) for entry in entries]
        scores = [score(image, entry["prompt"]) for image, entry in zip(images, entries, strict=True)]
        self.answer({"scores": scores})

    def answer(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    print(f"scoring at http://127.0.0.1:{server.server_port}/score", flush=True)
    server.serve_forever()
