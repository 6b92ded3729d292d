# What every script in this folder needs before Python starts. Edit this file by hand; `python -m pipeline sbatch` never
# touches it. bash reads it in the folder of the repository; TEXTDD_STAGE is prepare, distill, evaluate or aggregate.

# 1. Python and CUDA: what you type after a log-in.
# module purge
# module load python/3.11 cuda/12.4
# source "$HOME/envs/textdd/bin/activate"
# eval "$(conda shell.bash hook)" && conda activate textdd

# 2. Where things lie: on a file system that all nodes see. configs/cluster.yaml (root, hub_cache) sets them too; what
# is set here counts.
# export TEXTDD_ROOT="$SCRATCH/textdd"
# export HF_HUB_CACHE="$SCRATCH/hub/hub"
# export HF_DATASETS_CACHE="$SCRATCH/hub/datasets"

# 3. Compute nodes have no network: after stage 1, the hub is what stage 1 has downloaded.
if [ "$TEXTDD_STAGE" != prepare ]; then
    export HF_HUB_OFFLINE=1
fi

# 4. As many threads as the job has CPUs, where the site does not bind it to them. Results are bit-equal only at the
# same number.
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
