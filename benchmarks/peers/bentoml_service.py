"""The same network behind BentoML: the file as the body.

ENCODER=encoder.onnx bentoml serve bentoml_service:Encoder --port PORT
"""

import os
import threading
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(workers=1, traffic={"timeout": 60})
class Encoder:
    def __init__(self) -> None:
        self.lock = threading.Lock()  # several threads cannot use np.load at once in CPython 3.11, see registry/npy.py
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        self.session = onnxruntime.InferenceSession(os.environ["ENCODER"], options, providers=["CPUExecutionProvider"])

    @bentoml.api
    def embed(self, image: Path, /) -> list[float]:
        with self.lock:
            pixels = np.load(image)[None].astype(np.float32)
        return self.session.run(None, {"pixels": pixels})[0][0].tolist()
