"""The same network behind LitServe: base64 in JSON, as its guides send images; batches of up to 8.

python litserve_server.py encoder.onnx PORT
"""

import base64
import io
import os
import sys

import litserve
import numpy as np
import onnxruntime


class Encoder(litserve.LitAPI):
    def setup(self, device):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        self.session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])

    def decode_request(self, request):
        return np.load(io.BytesIO(base64.b64decode(request["image"])))

    def batch(self, inputs):
        return np.stack(inputs).astype(np.float32)

    def predict(self, pixels):
        return self.session.run(None, {"pixels": pixels})[0]

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        return {"embedding": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Encoder(max_batch_size=8, batch_timeout=0.001), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
