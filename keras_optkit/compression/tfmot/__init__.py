"""TF-MOT for models of Keras 3, through a bridge to tf_keras."""
