"""Learning one task after another without forgetting the earlier ones."""

from keras_optkit.continual.replay_buffer import ReplayBuffer as ReplayBuffer
from keras_optkit.continual.replay_dataset import ReplayDataset as ReplayDataset
