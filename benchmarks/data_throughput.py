"""Pictures from disk and random transforms, beside what people use: images a second, and memory.

    python benchmarks/data_throughput.py [--quick]

stream       JPEG files of 160x120 in colour, cut to 64x64, shuffled, in minibatches of 64 floats: `data.stream` beside
             a plain torch DataLoader over a PIL dataset (shuffled, two processes each, the same resampling)
transforms   minibatches of 128 colour images of 32x32 on one thread, beside kornia: flip and crop; flip, rotation,
             scale and colours; cutmix
memory       growth of resident memory over two epochs of that folder, and as a share of what its floats take
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from form import Benchmark, measure_pairs, peer_python, run_json
from PIL import Image

STREAM = """
import json, sys, time
import psutil
from lab.data.images import ImageData
folder, epochs = sys.argv[1], int(sys.argv[2])
data = ImageData(name=folder, size=(64, 64), fit="crop", batch_size=64, batches_per_step=10, stream=True,
                 stream_processes=2).build(0)
num = data.num_samples("train") * epochs
rss = psutil.Process().memory_info
done, peak = 0, 0
list(data.next_chunk())
before, began = rss().rss, time.perf_counter()
while done < num:
    for batch in data.next_chunk():
        done += len(batch.x)
        peak = max(peak, rss().rss)
seconds = time.perf_counter() - began
data.close()
print(json.dumps({"per_second": done / seconds, "growth_mb": (peak - before) / 2**20, "samples": num // epochs}))
"""

LOADER = """
import json, sys, time
from pathlib import Path
import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

class Pictures(Dataset):
    def __init__(self, folder):
        self.files = sorted(Path(folder).rglob("*.jpg"))
        self.classes = sorted({file.parent.name for file in self.files})
    def __len__(self):
        return len(self.files)
    def __getitem__(self, i):
        with Image.open(self.files[i]) as image:
            image = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (64, 64), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), self.classes.index(self.files[i].parent.name)

if __name__ == "__main__":
    data, epochs = Pictures(sys.argv[1]), int(sys.argv[2])
    workers = {"num_workers": 2, "prefetch_factor": 4, "persistent_workers": True}
    loader = DataLoader(data, 64, shuffle=True, drop_last=True, **workers)
    iterator = iter(loader)
    for _ in range(10):
        next(iterator)
    for x, y in iterator:
        pass
    done, began = 0, time.perf_counter()
    for _ in range(epochs):
        for x, y in loader:
            x = x.float() / 255
            done += len(x)
    print(json.dumps({"per_second": done / (time.perf_counter() - began)}))
"""

CLOCK = """
import json, sys, time
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
x, y = torch.rand(128, 3, 32, 32), torch.arange(128) % 10

def rate(call, repeats=int(sys.argv[1])):
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 128 / sorted(times)[len(times) // 2]
"""

OURS = (
    CLOCK
    + """
from lab.data.resident import Batch
from lab.data.transforms import TransformConfig, transformed
generator = torch.Generator().manual_seed(0)
colours = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
configs = {
    "flip_crop": TransformConfig(flip=0.5, crop=4),
    "affine_colour": TransformConfig(flip=0.5, rotate=15, scale=(0.9, 1.1), **colours),
    "cutmix": TransformConfig(cutmix=1.0),
}
call = lambda config: transformed(Batch(x, y), config, 10, generator)
print(json.dumps({name: rate(lambda: call(config)) for name, config in configs.items()}))
"""
)

KORNIA = (
    CLOCK
    + """
import kornia.augmentation as K
flip, crop = K.RandomHorizontalFlip(0.5), K.RandomCrop((32, 32), padding=4)
affine, colours = K.RandomAffine(15.0, scale=(0.9, 1.1), p=1.0), K.ColorJitter(0.2, 0.2, 0.2, 0.0, p=1.0)
mix = K.RandomCutMixV2(p=1.0, data_keys=["input", "class"])
calls = {
    "flip_crop": lambda: crop(flip(x)),
    "affine_colour": lambda: colours(affine(flip(x))),
    "cutmix": lambda: mix(x, y),
}
print(json.dumps({name: rate(call) for name, call in calls.items()}))
"""
)


def write_pictures(folder: Path, num: int) -> None:
    """JPEG files of four classes, each of its own noise and gradient."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:120, :160]
    for i in range(num):
        path = folder / f"class{i % 4}" / f"{i:06}.jpg"
        path.parent.mkdir(exist_ok=True)
        base = (rows * (i % 4) + columns * (i % 7)) % 256
        noise = rng.integers(0, 40, (120, 160, 3))
        Image.fromarray(((base[..., None] + noise) % 256).astype(np.uint8)).save(path, quality=90)


def main() -> None:
    bench = Benchmark("data_throughput", __doc__)
    num, epochs, repeats = (1_000, 1, 3) if bench.quick else (4_000, 2, 5)
    details: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), num)
        streams: list[dict[str, float]] = []

        def ours() -> float:
            streams.append(run_json(sys.executable, STREAM, folder, epochs, threads=1))
            return streams[-1]["per_second"]

        pairs = measure_pairs(
            ours, lambda: run_json(sys.executable, LOADER, folder, epochs, threads=1)["per_second"], repeats
        )
        growth = max(each["growth_mb"] for each in streams)
        pixels = streams[0]["samples"] * 3 * 64 * 64 * 4 / 2**20
    figures = {
        "stream_per_second": pairs.lab,
        "stream_vs_loader_ratio": pairs.ratio,
        "stream_growth_mb": growth,
        "stream_growth_of_floats_ratio": growth / pixels,
    }
    details["stream"] = pairs._asdict()
    peer = peer_python(["kornia==0.9.0"])
    rates = [
        (run_json(sys.executable, OURS, 60, threads=1), run_json(peer, KORNIA, 60, threads=1)) for _ in range(repeats)
    ]
    for name in ("flip_crop", "affine_colour", "cutmix"):
        ratios = sorted(lab[name] / kornia[name] for lab, kornia in rates)
        figures[f"transform_{name}_per_second"] = sorted(lab[name] for lab, _ in rates)[len(rates) // 2]
        figures[f"transform_{name}_vs_kornia_ratio"] = ratios[len(ratios) // 2]
        details[name] = {"ratios": ratios}
    bench.finish(figures, {"stream_vs_loader_ratio": 1.0}, details)


if __name__ == "__main__":
    main()
