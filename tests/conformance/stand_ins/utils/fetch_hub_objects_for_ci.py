"""Stand-in for transformers' utils/fetch_hub_objects_for_ci.py: media made here take the place of files on the Hub."""

from pathlib import Path

import av
import numpy as np
import PIL.Image
import soundfile


FOLDER = Path(__file__).parent / "media"


def url_to_local_path(url: str) -> str:
    """A file of the same name: half a second of noise for a sound, a coloured square for an image, ten seconds of them for a video."""
    path = FOLDER / url.rpartition("/")[2]
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        return str(path)
    random = np.random.default_rng(0)
    if path.suffix in (".wav", ".mp3"):
        soundfile.write(path, random.normal(scale=0.1, size=8000).astype(np.float32), 16000)
    elif path.suffix in (".png", ".jpg"):
        PIL.Image.fromarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
    elif path.suffix == ".mp4":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=24, width=64, height=48)
            for pixels in random.integers(0, 255, (240, 48, 64, 3), dtype=np.uint8):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    return str(path)
