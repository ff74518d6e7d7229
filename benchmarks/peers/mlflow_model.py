"""The same network as an MLflow pyfunc: base64 in a column, as MLflow's guides send images.

python mlflow_model.py encoder.onnx FOLDER        # then `mlflow models serve -m FOLDER --env-manager local --port PORT`
"""

import base64
import io
import os
import sys
import threading

import mlflow
import numpy as np


class Encoder(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        import onnxruntime

        self.lock = threading.Lock()  # several threads cannot use np.load at once in CPython 3.11, see registry/npy.py
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        self.session = onnxruntime.InferenceSession(context.artifacts["encoder"], options, providers=["CPUExecutionProvider"])

    def predict(self, context, model_input, params=None):
        with self.lock:
            images = [np.load(io.BytesIO(base64.b64decode(text))) for text in model_input["image"]]
        pixels = np.stack(images).astype(np.float32)
        return self.session.run(None, {"pixels": pixels})[0].tolist()


if __name__ == "__main__":
    mlflow.pyfunc.save_model(sys.argv[2], python_model=Encoder(), artifacts={"encoder": sys.argv[1]}, pip_requirements=["onnxruntime-gpu", "numpy"])
