"""What Keras 3 users reach for between `model.compile()` and deployment.

Importing this package registers its classes with Keras, as `keras_optkit>Name`, so that saved
models load by themselves.
"""

from keras_optkit import callbacks as callbacks
from keras_optkit import compression as compression
from keras_optkit import continual as continual
from keras_optkit import diagnostics as diagnostics
from keras_optkit import optimizers as optimizers
from keras_optkit import schedules as schedules
from keras_optkit import transforms as transforms
from keras_optkit._catalog import list as list

__version__ = "0.1.0"
