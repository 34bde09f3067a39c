"""The benchmark's language tasks (paper 4.4, 4.5): texts from labels, retrieval, captions, questions.

    labels --label_texts--> captions.jsonl, questions.jsonl --> label_retrieval, captioning, vqa

Texts are built from boxes and masks alone; no picture is looked at. Models are then fine-tuned on the texts
of the training part by the benchmark's one loop, or, for `vqa`, a general language model is asked.
"""
