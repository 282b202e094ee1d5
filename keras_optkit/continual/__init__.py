"""Learning one task after another without forgetting the earlier ones."""

from keras_optkit.continual.continual_model import ContinualModel as ContinualModel
from keras_optkit.continual.evaluate_tasks import evaluate_tasks as evaluate_tasks
from keras_optkit.continual.ewc import EWC as EWC
from keras_optkit.continual.ewc_optimizer import EWCOptimizer as EWCOptimizer
from keras_optkit.continual.fisher_diagonal import fisher_diagonal as fisher_diagonal
from keras_optkit.continual.gdumb import gdumb as gdumb
from keras_optkit.continual.l2_anchor import L2Anchor as L2Anchor
from keras_optkit.continual.mas import MAS as MAS
from keras_optkit.continual.masked_crossentropy import MaskedCrossentropy as MaskedCrossentropy
from keras_optkit.continual.masked_logits import masked_logits as masked_logits
from keras_optkit.continual.metrics import accuracy as accuracy
from keras_optkit.continual.metrics import backward_transfer as backward_transfer
from keras_optkit.continual.metrics import forgetting as forgetting
from keras_optkit.continual.metrics import forward_transfer as forward_transfer
from keras_optkit.continual.metrics import incremental_accuracy as incremental_accuracy
from keras_optkit.continual.metrics import learning_accuracy as learning_accuracy
from keras_optkit.continual.permuted_tasks import permuted_tasks as permuted_tasks
from keras_optkit.continual.plot_matrix import plot_matrix as plot_matrix
from keras_optkit.continual.plot_strength_sweep import plot_strength_sweep as plot_strength_sweep
from keras_optkit.continual.plot_task_curves import plot_task_curves as plot_task_curves
from keras_optkit.continual.replay_buffer import ReplayBuffer as ReplayBuffer
from keras_optkit.continual.replay_dataset import ReplayDataset as ReplayDataset
from keras_optkit.continual.rotated_tasks import rotated_tasks as rotated_tasks
from keras_optkit.continual.si import SI as SI
from keras_optkit.continual.split_tasks import split_tasks as split_tasks
from keras_optkit.continual.task import Task as Task
