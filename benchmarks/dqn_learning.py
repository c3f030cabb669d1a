"""What the value-based agents learn: 5 seeds of each recipe, best and last checkpoint over 100 greedy episodes.

python benchmarks/dqn_learning.py
python benchmarks/dqn_learning.py --recipes dqn/cartpole dqn/acrobot --seeds 3
"""

from learning import learning_benchmark

TARGETS = {
    "dqn/cartpole": 495,
    "q-learning/frozen-lake": 0.70,
    "q-learning/taxi": 7.0,
    "dqn/frozen-lake": 0.65,
    "dqn/cartpole-rainbow": 475,
    "recurrent-q/cartpole-positions": 400,
    "dqn/acrobot": -80,
    "dqn/mountain-car": -102,
    "dqn/lunar-lander": 220,
    "dqn/pong": 20,
}

if __name__ == "__main__":
    learning_benchmark("dqn_learning", __doc__, TARGETS, only_when_asked=["dqn/pong"])
