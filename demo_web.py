"""A web page on a trained model: see a report come out of the noise, edit it, let the model fill the rest.

python demo_web.py                                         # the quickstart's model and test images; http://127.0.0.1:7860
python demo_web.py --model_path DIR --annotation FILE --images DIR    # another model, and examples for it
python demo_web.py --model_path DIR                        # of dllm or diffa: a page for prompts, one for clips
"""

import argparse
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from PIL import Image

from dllm.core.decoding import Decoding
from dllm.data.private_folder import private_folder
from dllm.inference.command_line import add_device, announce, settle_device
from dllm.program import argument_parser, run_program
from generate_demo import QUICKSTART
from llava.radiology.annotation import ANNOTATION, read_annotation
from llava.web.uploads import MAX_PIXELS

DISTILLED, DATA = QUICKSTART / "distilled", QUICKSTART / "data"
MAX_EXAMPLES, MAX_WAITING = 50, 30
# Nothing comes from elsewhere, and a page elsewhere cannot show this one.
POLICY = (
    b"default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    b"style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'"
)
# What Gradio would offer beside the page: a link for everybody, a history in the browser, a server of its own.
CLOSED = {"share": False, "run_history": False, "footer_links": [], "ssr_mode": False, "mcp_server": False}


def parse_arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--model_path", type=Path, default=DISTILLED, help="folder of a trained model")
    parser.add_argument("--annotation", type=Path, help="annotation file whose test studies are the examples")
    parser.add_argument("--images", type=Path, default=DATA / "images", help="image folder of the examples")
    parser.add_argument("--llm_path", help="of an audio model: its language model, if it has moved")
    parser.add_argument("--whisper_path", help="of an audio model: its Whisper, if it has moved")
    parser.add_argument("--plain", action="store_true", help="of a text model: go on with the text, no chat template")
    parser.add_argument("--threshold", type=float, help="of the settings at first; default: the model's own")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: whoever reaches this machine reaches the page")
    parser.add_argument("--port", type=int, default=7860, help="port of the page")
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    Decoding(1, 1, threshold=args.threshold or None)  # refuses an impossible one
    examples = read_examples(args.annotation, args.images)
    announce(args.model_path)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(KeyboardInterrupt), private_folder("llada-v-qwen-web-") as folder:
        # Gradio reads these when it is imported.
        os.environ |= {"GRADIO_TEMP_DIR": str(folder / "uploads"), "GRADIO_ANALYTICS_ENABLED": "False"}
        serve(args, examples)


def serve(args: argparse.Namespace, examples: list[dict]) -> None:
    """Serves the page until the process is ended."""
    try:
        import gradio as gr
    except ImportError:
        raise ValueError('the page needs gradio: pip install -e "train[web]"') from None
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from dllm.web.uploads import MAX_BYTES

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    page = build_page(args, examples)
    blocks = page.blocks()
    hosts = ["*"] if args.host == "0.0.0.0" else [args.host, "localhost", "127.0.0.1"]
    blocks.queue(max_size=MAX_WAITING, default_concurrency_limit=4).launch(
        server_name=args.host,
        server_port=args.port,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=MAX_BYTES,
        css=page.style,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
        app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(guarded)]},
        **CLOSED,
    )
    print(f"{blocks.local_url} (Ctrl-C ends it)", flush=True)
    threading.Event().wait()


def build_page(args: argparse.Namespace, examples: list[dict]):
    """The page of the model in the folder. Raises ValueError if it holds none that can be shown."""
    from diffa.inference import SpeechWriter
    from diffa.model.modeling_diffa import DiffaConfig
    from diffa.web import SpeechPage
    from dllm.inference.text import TextWriter
    from dllm.inference.writer import DTYPES, check_device
    from dllm.pipelines.auto import load_text_model
    from dllm.pipelines.loading import read_config
    from dllm.web.page import Page
    from llava.inference import ReportWriter
    from llava.model.language_model.llava_qwen import LlavaQwen3Config
    from llava.web.page import ReportPage

    settle_device(args)
    folder, device = str(args.model_path), (args.device, args.dtype)
    check_device(args.device)
    shown = args.model_path.resolve().name, {} if args.threshold is None else {"threshold": args.threshold or None}
    kind = read_config(folder).get("model_type")
    if kind == LlavaQwen3Config.model_type:
        return ReportPage(ReportWriter(folder, *device), *shown, examples)
    if kind == DiffaConfig.model_type:
        return SpeechPage(SpeechWriter(folder, args.llm_path, args.whisper_path, *device), *shown)
    tokenizer, model, _ = load_text_model(folder, chat=not args.plain, dtype=DTYPES[args.dtype])
    return Page(TextWriter(tokenizer, model.to(args.device).eval(), args.plain), *shown)


def guarded(app):
    """ASGI middleware: adds POLICY to every answer, and refuses to fetch from elsewhere for a visitor."""

    async def answer(scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY)]
            await send(message)

        fetches = scope["type"] == "http" and "file=http" in scope["path"]
        await app(scope | {"path": "/none", "raw_path": b"/none"} if fetches else scope, receive, send_with_policy)

    return answer


def read_examples(annotation: Path | None, images: Path) -> list[dict]:
    """The first test studies whose images are there, with `path` and `title`; none without any annotation."""
    known = annotation or (DATA / ANNOTATION).is_file()
    records = read_annotation(annotation or DATA / ANNOTATION).get("test", []) if known else []
    studies = [record | {"path": images / record["image_path"][0]} for record in records[:MAX_EXAMPLES]]
    studies = [study for study in studies if study["path"].is_file()]
    return [
        study | {"title": f"{number}: {study.get('indication') or study['id']}"}
        for number, study in enumerate(studies, start=1)
    ]


if __name__ == "__main__":
    run_program(main)
