"""A web page on a trained model: see a report come out of the noise, edit it, let the model fill the rest.

python demo_web.py                                         # the quickstart's model and test images; http://127.0.0.1:7860
python demo_web.py --model_path DIR --annotation FILE --images DIR    # another model, and examples for it
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

import torch

from dllm.program import run_program
from generate_demo import QUICKSTART
from llava.inference import DTYPES, ReportWriter
from llava.radiology.annotation import ANNOTATION, read_annotation
from llava.web.uploads import MAX_BYTES, MAX_PIXELS, private_folder

DISTILLED = QUICKSTART / "distilled"
MAX_EXAMPLES = 50
MAX_WAITING = 30
# Nothing comes from elsewhere, and a page elsewhere cannot show this one.
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'"
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, default=DISTILLED, help="folder of a trained model")
    parser.add_argument("--annotation", type=Path, help="annotation file whose test studies are the examples")
    parser.add_argument("--images", type=Path, help="image folder of --annotation")
    parser.add_argument(
        "--threshold", type=float, help="of the settings at first; default: 0.7 for the quickstart, or none"
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: whoever reaches this machine reaches the page")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    with private_folder() as folder:
        # Gradio reads these when it is imported.
        os.environ |= {"GRADIO_TEMP_DIR": str(folder / "uploads"), "GRADIO_ANALYTICS_ENABLED": "False"}
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            serve(args)
        except KeyboardInterrupt:
            pass


def serve(args: argparse.Namespace) -> None:
    """Serves the page until the process is ended."""
    try:
        import gradio as gr
    except ImportError:
        raise ValueError('the page needs gradio: pip install -e "train[web]"') from None
    from PIL import Image
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from llava.web.page import STYLE, Page

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    examples = read_examples(args)
    writer = ReportWriter(str(args.model_path), args.device, args.dtype)
    threshold = 0.7 if args.threshold is None and args.model_path == DISTILLED else args.threshold or 0
    page = Page(writer, args.model_path.resolve().name, examples, threshold).blocks()
    hosts = ["*"] if args.host == "0.0.0.0" else [args.host, "localhost", "127.0.0.1"]
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=4).launch(
        server_name=args.host,
        server_port=args.port,
        share=False,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        mcp_server=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_BYTES,
        css=STYLE,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(Guarded)]},
    )
    print(f"{page.local_url} (Ctrl-C ends it)", flush=True)
    threading.Event().wait()


class Guarded:
    """ASGI middleware: adds POLICY to every answer, and refuses to fetch from elsewhere for a visitor."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        if scope["type"] == "http" and "file=http" in scope["path"]:
            scope = scope | {"path": "/none", "raw_path": b"/none"}
        await self.app(scope, receive, send_with_policy)


def read_examples(args: argparse.Namespace):
    """The first test studies of the annotation whose images are there; none if no annotation is."""
    from llava.web.page import Example

    data = QUICKSTART / "data"
    if args.annotation is None and not (data / ANNOTATION).is_file():
        return []
    records = read_annotation(args.annotation or data / ANNOTATION).get("test", [])[:MAX_EXAMPLES]
    folder = args.images or data / "images"
    paths = [folder / record["image_path"][0] for record in records]
    studies = [(path, record) for path, record in zip(paths, records, strict=True) if path.is_file()]
    return [
        Example(path, record, f"{number}: {record.get('indication') or record['id']}")
        for number, (path, record) in enumerate(studies, start=1)
    ]


if __name__ == "__main__":
    run_program(main)
